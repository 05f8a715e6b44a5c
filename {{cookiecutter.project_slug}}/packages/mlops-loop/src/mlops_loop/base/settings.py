"""Settings from the environment or a .env file; unknown keys in .env are refused."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings

from mlops_loop.base.errors import Failure
from mlops_loop.base.project import current_project

LONGEST = 64  # letters of a key's name: the prediction log stores it


def default_tracking_uri() -> str:
    """Return the embedded registry: of an earlier version at the top, else in a hidden folder."""
    earlier = Path("mlflow.db")
    return f"sqlite:///{earlier if earlier.is_file() else '.mlflow/mlflow.db'}"


def checked_name(name: str) -> str:
    """Return the name of experiment and model; MLflow takes these two in no model's name."""
    if found := set(name) & set("/:"):
        raise ValueError(f"it names the registered model, too, so it may hold no {min(found)}")
    return name or current_project().name


ModelName = Annotated[str, AfterValidator(checked_name)]
EMPTY = SecretStr("")


class Settings(BaseSettings, env_file=".env", extra="forbid"):
    mlflow_tracking_uri: str = Field(default_factory=default_tracking_uri)
    # Of the runs, and of the registered model. CI sets it to nothing where it has none.
    mlflow_experiment_name: ModelName = Field("", validate_default=True)
    prediction_log_url: str = "sqlite:///predictions.db"
    prediction_spool: str = "spool"  # folder that buffers predictions while the log is down
    prediction_spool_mb: int = Field(256, ge=1)
    bundle: str = "build/champion"
    challenger: str = "build/challenger"  # bundle that `traffic` sends requests to
    # canary:0.1 is every tenth request
    traffic: str = Field("", pattern=r"^(|shadow|canary:(0(\.\d+)?|1(\.0+)?))$")
    api_keys: SecretStr = EMPTY  # name:key,name:key
    api_keys_file: str = ""  # name:key on each line; read again when it changes
    rate_limit: int = Field(0, ge=0)  # requests a minute of each key; 0 is no limit
    rate_limit_url: SecretStr = SecretStr("memory://")  # where it is counted; redis:// is shared
    max_body_mb: int = Field(8, ge=1)
    # Hashes `pii` columns in the prediction log.
    pii_key: SecretStr = Field(EMPTY, validation_alias=AliasChoices("pii_key", "sensitive_key"))
    audit_key: SecretStr = EMPTY  # signs the lines of the audit log
    # Of services that Apprise knows, or of JSON webhooks.
    alert_urls: SecretStr = Field(
        EMPTY, validation_alias=AliasChoices("alert_urls", "alert_webhook")
    )
    alert_file: str = "reports/monitor/alerts.jsonl"
    postgres_password: SecretStr = EMPTY  # read by deploy/compose.yaml alone

    def keys(self) -> dict[str, str]:
        """Return the API keys as name -> key."""
        return parse_keys(self.api_keys.get_secret_value(), "API_KEYS")

    def alert_targets(self) -> list[str]:
        return re.split(r"[,\s]+(?=\w+://)", self.alert_urls.get_secret_value().strip())

    @property
    def asks_for_keys(self) -> bool:
        return bool(self.keys() or self.api_keys_file)

    @property
    def share(self) -> float | None:
        """The challenger's share of the answers; None if none of its scores is answered."""
        return float(self.traffic.partition(":")[2]) if self.traffic.startswith("canary") else None


def parse_keys(text: str, where: str) -> dict[str, str]:
    """Return keys as name -> key, from name:key parts that commas or line breaks divide."""
    pairs = [pair.strip() for pair in re.split(r"[,\n]", text) if pair.strip()]
    parts = [pair.partition(":")[::2] for pair in pairs if not pair.startswith("#")]
    keys = {name.strip(): key.strip() for name, key in parts}
    if not all([*keys, *keys.values()]) or any(len(name) > LONGEST for name in keys):
        form = f"name:key,name:key, a name of at most {LONGEST} letters"
        raise Failure(f"{where} must look like {form}")
    return keys


def load_settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0]).upper()
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        known = "; known are " + ", ".join(Settings.model_fields).upper()
        hint = "" if key.lower() in Settings.model_fields else known
        raise Failure(f".env or environment: {key}: {reason}{hint}") from None

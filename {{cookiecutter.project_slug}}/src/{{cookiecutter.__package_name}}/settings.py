"""Settings: what the environment (or a .env file) may change. Unknown keys in .env are refused."""

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings

from . import NAME
from .errors import Failure


class Settings(BaseSettings, env_file=".env", extra="forbid"):
    mlflow_tracking_uri: str = "sqlite:///mlflow.db"
    mlflow_experiment_name: str = NAME  # of the runs, and of the registered model
    prediction_log_url: str = "sqlite:///predictions.db"
    bundle: str = "build/champion"
    api_keys: SecretStr = SecretStr("")  # name:key,name:key
    postgres_password: SecretStr = SecretStr("")  # read by deploy/compose.yaml alone

    def keys(self) -> dict[str, str]:
        """Return the API keys as name -> key."""
        pairs = [pair for pair in self.api_keys.get_secret_value().split(",") if pair.strip()]
        keys = dict(pair.strip().partition(":")[::2] for pair in pairs)
        if not all([*keys, *keys.values()]):
            raise Failure("API_KEYS must look like name:key,name:key")
        return keys


def load_settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        key, reason = str(error.errors()[0]["loc"][0]).upper(), error.errors()[0]["msg"]
        known = ", ".join(Settings.model_fields).upper()
        raise Failure(f".env or environment: {key}: {reason}; known are {known}") from None

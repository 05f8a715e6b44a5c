"""MLServer model: save the pipeline and the settings of MLServer's scikit-learn runtime."""

import json
import sys
from pathlib import Path

import joblib
from fitted import load

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
joblib.dump(load(), folder / "model.joblib")
settings = {
    "name": "fitted",
    "implementation": "mlserver_sklearn.SKLearnModel",
    "parameters": {"uri": "./model.joblib"},
}
(folder / "model-settings.json").write_text(json.dumps(settings), encoding="utf-8")

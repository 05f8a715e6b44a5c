"""The stages of dvc.yaml as a Kubeflow pipeline; README.md says how, `stages` is where to begin."""

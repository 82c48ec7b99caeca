"""The groups of params.yaml, one model for each stage; `params.Params` has them all."""

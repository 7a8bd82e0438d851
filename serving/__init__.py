"""The model server, and the preprocessing that training, evaluation and serving share."""

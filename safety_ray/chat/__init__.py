"""Chat templates, and the encoder that training and serving share."""

//! Tokenizers that run on the device.

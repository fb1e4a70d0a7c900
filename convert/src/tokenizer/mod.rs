//! Reads the tokenizer files that users have and packs them for the device.

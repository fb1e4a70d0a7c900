//! From a family's names and configuration to the architecture record: one short file for each family.

"""Regular languages over tokens: strings, numbers, lists of texts, patterns and formats."""

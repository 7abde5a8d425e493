"""Text -> Recipe: strict YAML with positions, schema, cross-field rules, diagnostics."""

"""The import of workflows from other tools: `draft` is what each reader makes, `flow_text` writes it as a flow file."""

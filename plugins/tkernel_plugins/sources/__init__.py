"""Where models are: repositories of the hub and headers of GGUF files, for planning and for loading."""

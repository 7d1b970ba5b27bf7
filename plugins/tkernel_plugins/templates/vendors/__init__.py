"""The named templates: one file a vendor, each template a frozen value."""

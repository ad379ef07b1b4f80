"""Libraries of ours with the real ones' symbols and layouts, which ask an emulated device instead of hardware."""

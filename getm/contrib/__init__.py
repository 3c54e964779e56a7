"""What joins getm to other packages, each an extra to install."""

"""What makes getm known to other packages; each module wants the package that it is named after."""

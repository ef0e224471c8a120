//! The two files: read, checked whole, swapped in whole.

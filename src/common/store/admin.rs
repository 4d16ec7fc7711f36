//! A queue file seen from outside.

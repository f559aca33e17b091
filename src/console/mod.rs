//! The pages of the control host.

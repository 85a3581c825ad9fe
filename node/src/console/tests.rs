//! The console's doors and pages over a whole coordinator.

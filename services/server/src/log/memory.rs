//! The `memory` engine.

//! Many clients.

//! The admin API of tertulia.

//! A thread pool.

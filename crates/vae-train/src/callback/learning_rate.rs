//! The learning-rate schedule.

//! Lists: orders, results by state, results in review, rejections; their filter, their export, and decisions about all of a
//! list at once.

pub mod filter;

pub mod review;

pub mod table;

pub mod decide;

pub mod bulk;

pub mod events;

pub mod orders;

pub mod search;

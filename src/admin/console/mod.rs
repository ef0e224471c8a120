//! The console: pages that show orders, events, merchants and the last hours, and take decisions.

pub mod plots;

pub mod labels;

pub mod page;

pub mod login;

pub mod rejection;

pub mod decision;

pub mod review;

pub mod events;

pub mod timeline;

pub mod search;

pub mod merchants;

pub mod overview;

//! The console: pages that show orders, events, merchants and the last hours, and take decisions.

pub mod labels;

pub mod page;

pub mod plots;

pub mod login;

pub mod rejection;

pub mod decision;

mod steps;

pub mod lists;

pub mod timeline;

pub mod merchants;

pub mod overview;

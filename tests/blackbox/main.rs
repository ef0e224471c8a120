//! The product from outside: the real binary, driven through sockets, files, signals and exit codes.
//!
//! Written from the platform's document and from what users are promised, never from the library: nothing here names a
//! module of the crate, and signing, HTTP and the platform are done again, small. Expected values come from
//! `tests/spec/vectors.json`, which other tools made.

#![allow(
    clippy::unwrap_used,
    reason = "here a panic is a failed test, in what the tests stand on too"
)]

// What the tests stand on.
mod client;
mod clock;
mod cluster;
mod demo;
mod harness;
mod platform;
mod shop;
mod skip;
#[path = "../variants/mod.rs"]
mod variants;
mod web_pages;
mod webdriver;
mod wire;

// What they claim, in the order of the contract.
mod bodies;
mod broken_http;
mod calls;
mod dialects;
mod fields;
mod listener;
mod metamorphic;
mod oddities;
mod refusals;
mod relay;
mod shadow;
mod vectors;

mod faults;
mod tls;
mod tls_failures;
mod wrong_answers;

mod crowd;
mod ledger;
mod reload;

// What comes back.
mod back;
mod backlog;
mod callbacks;
mod confirm;
mod database;
mod delivery;
mod disputes;
mod durability;
mod fairness;
mod fleet;
mod fleet_work;
mod forgeries;
mod framing;
mod front;
mod gateways;
mod handing_out;
mod histories;
mod inbox;
mod openapi;
mod orders;
mod pages;
mod public_port;
mod reviews;
mod schema;
mod watch;

// The platform to develop against.
mod browser;
mod conformance;
mod connecting;
mod rotation;
mod rotation_campaign;
mod sandbox;
mod session;

mod admin;
mod alerts;
mod canary;
mod cli;
mod clients;
mod console;
mod console_browser;
mod console_lists;
mod documented;
mod examples;
mod exits;
mod explain;
mod log;
mod metrics;
mod packages;
mod process;
mod proxies;
mod proxy_cost;
mod shutdown;
mod store_file;
mod strangers;
mod stray;
mod supervisor;
mod traces;
mod tries;
mod upgrade;

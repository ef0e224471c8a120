//! What must outlive the process: the ledger of the orders that were signed.

pub mod ledger;

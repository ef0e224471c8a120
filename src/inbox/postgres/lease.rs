//! Leases: a row is held by one sidecar for the time of one attempt.

// Not `now()`: that is the beginning of the transaction, before it waited for locks.
/// The lease of a silent sidecar: longer than an attempt takes, and short enough that another
/// delivers it within 30 s.
pub(super) const LEASE: &str = "clock_timestamp() + interval '15 s'";
/// Matches a row without a lease, or with one of ours (`$1`): attempts of this sidecar are known here.
pub(super) const FREE: &str = "(holder IS NULL OR holder = $1 OR held_until <= clock_timestamp())";

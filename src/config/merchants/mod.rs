//! `merchants.toml`: the merchants in force, as one unchanging snapshot.
//!
//! Messages name keys of the file and never quote its values: any of them may be a misplaced secret.

mod merchant;

mod rules;

mod read;

mod snapshot;

pub use merchant::{DeliveryForm, Merchant, SigningKey};
pub use rules::MerchantRules;
pub use snapshot::Snapshot;
pub(super) use snapshot::attempt;

//! Several sidecars on one PostgreSQL.

use crate::cluster::Cluster;
use crate::harness::skip;
use crate::shop::{Shop, taken};

#[test]
fn smoke() {
    let Some(cluster) = Cluster::shared() else {
        return skip("smoke", "PostgreSQL is not installed");
    };
    let shop = Shop::with(
        |_| taken(),
        |conf| conf.store = Some(cluster.url(&cluster.database())),
    );
    let delivery = shop.goes_well();
    shop.listed(&delivery.orderid(), "delivered");
    println!("{}", shop.sidecar.output());
}

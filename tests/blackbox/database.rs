//! Which PostgreSQL a sidecar starts on: one that keeps what it confirms, is who it says it is, and holds no one else's
//! tables where ours would be.

use crate::cluster::Cluster;
use crate::harness::{Setup, Sidecar, command, free_port};
use crate::shop::{SOON, Shop, inbox, list, taken};
use crate::tls::Authority;
use std::net::TcpListener;

#[track_caller]
fn refuses_to_start(url: &str, why: &str) {
    let setup = Setup::new(|conf| conf.store = Some(url.to_owned()));
    let (code, said) = setup.refused(SOON);
    assert!(matches!(code, Some(75 | 78)), "{code:?}: {said}");
    assert!(said.contains("inbox.store"), "{said}");
    assert!(said.contains(why), "{said}");
    assert!(!said.contains("geheim"), "{said}");
}

#[test]
fn a_server_that_may_lose_commits_is_refused() {
    let test = "a_server_that_may_lose_commits_is_refused";
    let Some(cluster) = Cluster::own(test) else {
        return;
    };
    let url = cluster.url(&cluster.database());
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        cluster.set(setting, "off");
        refuses_to_start(&url, setting);
        cluster.set(setting, "on");
    }
    cluster.set("default_transaction_read_only", "on");
    refuses_to_start(&url, "does not allow writes");
    cluster.set("default_transaction_read_only", "off");
    let latin = "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1";
    cluster.sql("postgres", latin);
    refuses_to_start(&cluster.url("latin"), "expected UTF8");
    drop(Setup::new(|conf| conf.store = Some(url)).start());
}

#[test]
fn a_server_that_cannot_be_reached_stops_the_start_and_its_password_stays_unsaid() {
    let port = free_port();
    let url = format!("postgres://shop:geheim@127.0.0.1:{port}/shop");
    refuses_to_start(&url, "refused");
    // One that takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let url = format!("postgres://shop:geheim@127.0.0.1:{port}/shop");
    refuses_to_start(&url, "did not answer");
    let setup = Setup::new(|conf| conf.store = Some(url.clone()));
    let output = command()
        .args(["check", "--files", "-c"])
        .arg(setup.conf_file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("postgres://shop@127.0.0.1"), "{said}");
    assert!(!said.contains("geheim"), "{said}");
}

#[test]
fn an_encrypted_server_is_believed_by_its_certificate_alone() {
    let test = "an_encrypted_server_is_believed_by_its_certificate_alone";
    let Some(cluster) = Cluster::own(test) else {
        return;
    };
    let url = cluster.url(&cluster.database());
    let tls = |more: &str| format!("{url}?sslmode=require{more}");
    refuses_to_start(&tls(""), "TLS");
    let authority = Authority::new("the database's");
    let roots = format!("&sslrootcert={}", authority.file().display());
    let install = |name| {
        let [certificate, key] = authority.files(&[name]);
        cluster.file("server.crt", &certificate);
        cluster.file("server.key", &key);
        cluster.set("ssl", "off");
        cluster.set("ssl", "on");
    };
    install("db.example.com");
    refuses_to_start(&tls(&roots), "certificate");
    install("127.0.0.1");
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE application_name = 'countersign'";
    let _sidecar = Sidecar::start(|conf| conf.store = Some(tls(&roots)));
    assert_eq!(cluster.sql("postgres", encrypted), "t");
    // The certificate is right, and its authority is nobody's that we know.
    refuses_to_start(&tls(""), "certificate");
}

#[test]
fn tables_that_are_newer_or_not_ours_stop_the_start_and_are_left_as_they_are() {
    let test = "tables_that_are_newer_or_not_ours_stop_the_start_and_are_left_as_they_are";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let theirs = cluster.database();
    let sql = "CREATE SCHEMA countersign; CREATE TABLE countersign.orders (theirs text)";
    cluster.sql(&theirs, sql);
    refuses_to_start(&cluster.url(&theirs), "another program");
    let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'countersign'";
    assert_eq!(cluster.sql(&theirs, count), "1");
    let newer = cluster.database();
    let setup = Setup::new(|conf| conf.store = Some(cluster.url(&newer)));
    assert_eq!(inbox(&setup, &["list"]).status.code(), Some(75));
    let mut sidecar = setup.start();
    assert!(list(&sidecar.setup).is_empty());
    sidecar.kill();
    cluster.sql(&newer, "UPDATE countersign.version SET number = number + 1");
    refuses_to_start(&cluster.url(&newer), "too old");
}

#[test]
fn other_tables_of_the_same_database_are_not_touched() {
    let test = "other_tables_of_the_same_database_are_not_touched";
    let Some(cluster) = Cluster::shared(test) else {
        return;
    };
    let database = cluster.database();
    let sql = "CREATE TABLE public.orders (theirs text); INSERT INTO public.orders VALUES ('kept')";
    cluster.sql(&database, sql);
    let url = cluster.url(&database);
    let shop = Shop::with(|_| taken(), |conf| conf.store = Some(url));
    let delivery = shop.goes_well();
    shop.listed(&delivery.orderid(), "delivered");
    assert_eq!(
        cluster.sql(&database, "SELECT * FROM public.orders"),
        "kept"
    );
}

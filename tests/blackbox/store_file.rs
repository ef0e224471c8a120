//! The store is what its path says: no other file takes its place, no second sidecar shares it, and none is made anew where
//! traces of one remain. A clock that jumps deletes nothing.

use crate::clock;
use crate::harness::{Setup, eventually};
use crate::shop::{Payment, callback};
use crate::shop::{SOON, Shop, acknowledged, list, refused, taken};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(5);

fn beside(store: &Path, suffix: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[test]
fn a_store_that_is_removed_renamed_or_replaced_takes_no_result() {
    let remove: fn(&Path) = |store| fs::remove_file(store).unwrap();
    let rename: fn(&Path) = |store| fs::rename(store, beside(store, ".old")).unwrap();
    let replace: fn(&Path) = |store| {
        fs::copy(store, beside(store, ".copy")).unwrap();
        fs::rename(beside(store, ".copy"), store).unwrap();
    };
    let empty: fn(&Path) = |store| {
        fs::write(beside(store, ".empty"), "").unwrap();
        fs::rename(beside(store, ".empty"), store).unwrap();
    };
    let lose_wal: fn(&Path) = |store| fs::remove_file(beside(store, "-wal")).unwrap();
    let lose_shm: fn(&Path) = |store| fs::remove_file(beside(store, "-shm")).unwrap();
    let truncate: fn(&Path) = |store| {
        fs::File::options()
            .write(true)
            .truncate(true)
            .open(store)
            .unwrap();
    };
    for (what, change) in [
        ("removed", remove),
        ("renamed", rename),
        ("replaced", replace),
        ("replaced by nothing", empty),
        ("without -wal", lose_wal),
        ("without -shm", lose_shm),
        ("truncated", truncate),
    ] {
        let shop = Shop::open();
        let store = shop.sidecar.setup.store();
        if !store.exists() {
            return;
        }
        acknowledged(&shop.notify(&Payment::of(&shop.order())));
        change(&store);
        let answer = shop.notify(&Payment::of(&shop.order()));
        assert_eq!(answer.status, 503, "{what}: {answer:?}");
        let ready = shop.sidecar.admin("/readyz");
        assert_eq!(ready.status, 503, "{what}: {}", ready.text());
    }
}

#[test]
fn a_store_that_is_put_back_takes_results_again() {
    let shop = Shop::open();
    let store = shop.sidecar.setup.store();
    if !store.exists() {
        return;
    }
    fs::rename(&store, beside(&store, ".away")).unwrap();
    let payment = Payment::of(&shop.order());
    assert_eq!(shop.notify(&payment).status, 503);
    fs::rename(beside(&store, ".away"), &store).unwrap();
    acknowledged(&shop.notify(&payment));
    assert_eq!(shop.sidecar.admin("/readyz").status, 200);
}

#[test]
fn a_second_sidecar_is_kept_off_by_whatever_path_it_comes() {
    let first = Setup::new(|conf| conf.store = None);
    let sidecar = first.start();
    let store = sidecar.setup.store();
    if !store.exists() {
        return;
    }
    let folder = sidecar.setup.folder.path();
    let (link, hard) = (folder.join("link.db"), folder.join("hard.db"));
    std::os::unix::fs::symlink(&store, &link).unwrap();
    fs::hard_link(&store, &hard).unwrap();
    let refuses = |path: &Path| {
        let second = Setup::new(|conf| conf.store = Some(format!("sqlite:{}", path.display())));
        let (_, output) = second.refused(SOON);
        assert!(output.contains("in use"), "{}: {output}", path.display());
    };
    refuses(&store);
    refuses(&link);
    refuses(&hard);
    fs::remove_file(beside(&store, ".lock")).unwrap();
    refuses(&store);
    refuses(&link);
}

#[test]
fn an_empty_or_missing_file_with_traces_of_a_store_stops_the_start() {
    for (is_empty, trace) in [
        (false, "-wal"),
        (true, "-wal"),
        (false, ".lock"),
        (true, ".lock"),
    ] {
        let setup = Setup::new(|_| {});
        let store = setup.store();
        if is_empty {
            fs::write(&store, "").unwrap();
        }
        fs::write(beside(&store, trace), "trace").unwrap();
        if std::env::var_os("COUNTERSIGN_TEST_STORE").is_some() {
            return;
        }
        let (code, output) = setup.refused(SHORT);
        assert_eq!(code, Some(78), "{output}");
        assert!(output.contains("missing or empty"), "{output}");
        assert!(
            output.contains(&format!("countersign.db{trace}")),
            "{output}"
        );
    }
}

#[test]
fn a_new_store_is_announced_and_an_old_one_is_not() {
    let mut sidecar = Setup::new(|_| {}).start();
    if !sidecar.setup.store().exists() {
        return;
    }
    let announced = |output: String| output.matches("a new store was made").count();
    assert_eq!(announced(sidecar.output()), 1);
    sidecar.restart();
    assert_eq!(announced(sidecar.output()), 1);
}

#[test]
fn a_clock_that_is_a_year_ahead_for_a_moment_deletes_nothing() {
    let test = "a_clock_that_is_a_year_ahead_for_a_moment_deletes_nothing";
    if !clock::can_be_moved(test) {
        return;
    }
    let mut shop = Shop::with(|_| taken(), |_| {});
    shop.sidecar.setup.clock_is_confirmed = false;
    let paid = Payment::of(&shop.order());
    acknowledged(&shop.notify(&paid));
    shop.listed(&paid.orderid, "delivered");
    for days in [400, 0] {
        shop.sidecar.setup.clock_ahead = Duration::from_secs(days * 24 * 60 * 60);
        shop.sidecar.restart();
        // By then the retention has had its first round.
        let other = Payment::of(&shop.order());
        acknowledged(&shop.notify(&other));
        shop.listed(&other.orderid, "delivered");
        std::thread::sleep(Duration::from_millis(500));
        let lines = list(&shop.sidecar.setup);
        assert!(
            lines.iter().any(|line| line.contains(&paid.orderid)),
            "{days}"
        );
        // The order is still known, with its amount.
        let cheap = paid
            .clone()
            .with_amount(1)
            .with_queryid(&format!("QCHEAP{days:05}"));
        let address = shop.sidecar.setup.callbacks;
        refused("another amount", &callback(address, cheap.form()));
    }
    eventually("the jump was logged", SOON, || {
        shop.sidecar.output().contains("the clock has jumped")
    });
}

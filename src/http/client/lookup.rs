//! Name lookups on threads of their own, bounded in number.
//!
//! The system's resolver blocks its thread for ten seconds and more while a name server is silent. Neither the runtime's
//! workers nor its blocking threads, which the store needs, wait for it: a name is looked up by one of a few threads that
//! do nothing else. One lookup serves all who want the name, a failure is remembered for a moment, and names that were
//! found before have threads that others can never take.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

/// Threads that wait for name servers; far below the tasks that a container is allowed.
const MAX_THREADS: usize = 32;
/// Threads that only names which were found before may take.
const RESERVED_THREADS: usize = 8;
/// Names that wait for a thread; one more is an error at once.
const MAX_WAITING: usize = 1024;
/// A failure is repeated for so long without another lookup.
const FAILURE_TIME: Duration = Duration::from_secs(5);
/// Failures that are remembered; beyond that all are forgotten.
const MAX_FAILURES: usize = 16_384;
/// A lookup that has run for so long is an error at once for a caller that joins it now.
const SILENCE: Duration = Duration::from_secs(3);
/// A thread without work ends after this time.
const IDLE_TIME: Duration = Duration::from_secs(10);
/// Bytes of a thread's stack: the system's resolver keeps whole packets there.
const STACK_SIZE: usize = 256 << 10;
/// Bytes of a hosts file that is worth reading for each lookup.
const MAX_HOSTS_FILE: u64 = 64 << 10;
const HOSTS_FILE: &str = "/etc/hosts";

/// The addresses of a name, each with port 0, or why there are none.
pub type LookupResult = Result<Vec<SocketAddr>, String>;

/// Looks `host` up. `was_found` says that this name had addresses before: it gets a thread even where others wait.
pub async fn look_up(host: &str, was_found: bool) -> LookupResult {
    // Names of this machine must not wait behind a silent name server. Nearly every system reads this file first.
    let local = in_hosts_file(host);
    if !local.is_empty() {
        return Ok(local);
    }
    let mut result = LOOKUPS.join(host, was_found)?;
    let finished = result.wait_for(Option::is_some).await;
    let found = finished.ok().and_then(|found| found.clone());
    found.unwrap_or_else(|| Err("the lookup was given up".to_owned()))
}

static LOOKUPS: LazyLock<Lookups> = LazyLock::new(|| Lookups::new(system));

struct Lookups {
    resolve: fn(&str) -> LookupResult,
    queue: Mutex<LookupQueue>,
    more: Condvar,
}

#[derive(Default)]
struct LookupQueue {
    /// Each name that waits or is being looked up, since when, and where its result will be.
    under_way: HashMap<String, (Instant, watch::Receiver<Option<LookupResult>>)>,
    found_before: VecDeque<NameLookup>,
    others: VecDeque<NameLookup>,
    /// Threads that look up one of the others.
    busy_with_others: usize,
    threads: usize,
    idle: usize,
    failures: HashMap<String, (Instant, String)>,
}

struct NameLookup {
    host: String,
    was_found: bool,
    result: watch::Sender<Option<LookupResult>>,
}

impl Lookups {
    fn new(resolve: fn(&str) -> LookupResult) -> Self {
        Self {
            resolve,
            queue: Mutex::default(),
            more: Condvar::new(),
        }
    }

    /// Joins a lookup that is under way, or begins one.
    fn join(
        &'static self,
        host: &str,
        was_found: bool,
    ) -> Result<watch::Receiver<Option<LookupResult>>, String> {
        let mut queue = self.queue.lock();
        if let Some((since, result)) = queue.under_way.get(host) {
            let waited = since.elapsed();
            if waited > SILENCE {
                return Err(format!("no reply from the name server for {waited:.0?}"));
            }
            return Ok(result.clone());
        }
        match queue.failures.get(host) {
            Some((at, error)) if at.elapsed() < FAILURE_TIME => return Err(error.clone()),
            Some(_) => drop(queue.failures.remove(host)),
            None => {}
        }
        if queue.found_before.len() + queue.others.len() >= MAX_WAITING {
            return Err(format!("{MAX_WAITING} names wait for the name server"));
        }
        let (sender, result) = watch::channel(None);
        let now = Instant::now();
        let under_way = (now, result.clone());
        queue.under_way.insert(host.to_owned(), under_way);
        let lookup = NameLookup {
            host: host.to_owned(),
            was_found,
            result: sender,
        };
        if was_found {
            queue.found_before.push_back(lookup);
        } else {
            queue.others.push_back(lookup);
        }
        self.call_a_thread(&mut queue);
        Ok(result)
    }

    fn call_a_thread(&'static self, queue: &mut LookupQueue) {
        let waiting = queue.found_before.len() + queue.others.len();
        // Idle threads come to it.
        if waiting <= queue.idle || queue.threads >= MAX_THREADS {
            self.more.notify_one();
            return;
        }
        let thread = thread::Builder::new()
            .name("name lookup".to_owned())
            .stack_size(STACK_SIZE);
        match thread.spawn(|| self.work()) {
            Ok(_) => queue.threads += 1,
            // Those that there are will come to it.
            Err(_) if queue.threads > 0 => {}
            Err(error) => queue.give_up(&format!("no thread for a name lookup: {error}")),
        }
    }

    /// Looks names up until there has been none for a while.
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            let Some(lookup) = queue.next() else {
                queue.idle += 1;
                let waited = self.more.wait_for(&mut queue, IDLE_TIME);
                queue.idle -= 1;
                // Looked at again: a name may have been queued at the moment of the time-out, and has woken no thread.
                if waited.timed_out() && !queue.has_next() {
                    queue.threads -= 1;
                    return;
                }
                continue;
            };
            drop(queue);
            let result = (self.resolve)(&lookup.host);
            queue = self.queue.lock();
            queue.finish(&lookup, result);
        }
    }
}

impl LookupQueue {
    fn has_next(&self) -> bool {
        !self.found_before.is_empty() || (!self.others.is_empty() && self.may_serve_others())
    }

    fn may_serve_others(&self) -> bool {
        self.busy_with_others < MAX_THREADS - RESERVED_THREADS
    }

    fn next(&mut self) -> Option<NameLookup> {
        if let Some(lookup) = self.found_before.pop_front() {
            return Some(lookup);
        }
        let lookup = self.may_serve_others().then(|| self.others.pop_front())?;
        self.busy_with_others += usize::from(lookup.is_some());
        lookup
    }

    fn finish(&mut self, lookup: &NameLookup, result: LookupResult) {
        self.busy_with_others -= usize::from(!lookup.was_found);
        self.under_way.remove(&lookup.host);
        if let Err(error) = &result {
            if self.failures.len() >= MAX_FAILURES {
                self.failures.clear();
            }
            let failure = (Instant::now(), error.clone());
            self.failures.insert(lookup.host.clone(), failure);
        }
        // Every caller may have stopped waiting.
        lookup.result.send_replace(Some(result));
    }

    fn give_up(&mut self, error: &str) {
        let waiting = self.found_before.drain(..).chain(self.others.drain(..));
        for lookup in waiting {
            self.under_way.remove(&lookup.host);
            lookup.result.send_replace(Some(Err(error.to_owned())));
        }
    }
}

/// The system's own resolver (`getaddrinfo`), which reads nsswitch.conf, resolv.conf and whatever else is set up.
fn system(host: &str) -> LookupResult {
    match (host, 0).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(plainly(&error.to_string())),
    }
}

/// The standard library puts its own words before the resolver's.
fn plainly(error: &str) -> String {
    let words = error.strip_prefix("failed to lookup address information: ");
    words.unwrap_or(error).to_owned()
}

/// The addresses of a name in the hosts file, in their order (hosts(5)).
fn in_hosts_file(host: &str) -> Vec<SocketAddr> {
    let is_small = fs::metadata(HOSTS_FILE).is_ok_and(|file| file.len() <= MAX_HOSTS_FILE);
    let text = is_small
        .then(|| fs::read_to_string(HOSTS_FILE).ok())
        .flatten();
    hosts(&text.unwrap_or_default(), host)
}

fn hosts(text: &str, host: &str) -> Vec<SocketAddr> {
    let host = host.trim_end_matches('.');
    let of_line = |line: &str| {
        let line = line.split('#').next()?;
        let mut words = line.split_ascii_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        let is_named = words.any(|name| name.eq_ignore_ascii_case(host));
        is_named.then_some(SocketAddr::new(address, 0))
    };
    text.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn lookups(resolve: fn(&str) -> LookupResult) -> &'static Lookups {
        Box::leak(Box::new(Lookups::new(resolve)))
    }

    async fn finished(mut result: watch::Receiver<Option<LookupResult>>) -> LookupResult {
        let result = result.wait_for(Option::is_some).await.unwrap().clone();
        result.unwrap()
    }

    fn some_address() -> Vec<SocketAddr> {
        vec![([192, 0, 2, 1], 0).into()]
    }

    #[test]
    fn hosts_file_is_read_as_its_manual_says() {
        let text = "# comment\n127.0.0.1\tlocalhost\n::1 localhost ip6-localhost\n\
                    192.0.2.1 pay.example.com pay # pay2\nnot-an-address pay2\n192.0.2.2 PAY.example.com\n";
        let found = |name| -> Vec<_> {
            let found = hosts(text, name);
            found.iter().map(|at| at.ip().to_string()).collect()
        };
        assert_eq!(found("localhost"), ["127.0.0.1", "::1"]);
        assert_eq!(found("Pay.Example.com."), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(found("pay"), ["192.0.2.1"]);
        assert!(found("pay2").is_empty());
        assert!(found("example.com").is_empty());
    }

    #[tokio::test]
    async fn one_lookup_serves_all_and_its_failure_is_remembered() {
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let lookups = lookups(|_| {
            CALLS.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(100));
            Err("no such name".to_owned())
        });
        let both = [lookups.join("a", false), lookups.join("a", false)];
        for result in both {
            assert_eq!(finished(result.unwrap()).await.unwrap_err(), "no such name");
        }
        assert_eq!(lookups.join("a", false).unwrap_err(), "no such name");
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn silent_names_leave_threads_for_those_that_were_found_before() {
        let lookups = lookups(|host| {
            if host.starts_with("silent") {
                thread::sleep(Duration::from_secs(20));
            }
            Ok(some_address())
        });
        let silent: Vec<_> = (0..700)
            .map(|n| lookups.join(&format!("silent{n}"), false).unwrap())
            .collect();
        let found = finished(lookups.join("known", true).unwrap());
        let found = tokio::time::timeout(Duration::from_secs(1), found).await;
        assert_eq!(found.unwrap().unwrap(), some_address());
        assert!(lookups.queue.lock().threads <= MAX_THREADS);
        let more = (700..2000).map(|n| lookups.join(&format!("silent{n}"), false));
        let refused = more.filter(Result::is_err).count();
        assert!(refused > 0, "the queue has no end");
        drop(silent);
    }

    #[tokio::test]
    async fn a_lookup_that_is_silent_for_long_keeps_nobody_waiting() {
        let lookups = lookups(|_| {
            thread::sleep(Duration::from_secs(20));
            Ok(some_address())
        });
        let begun = lookups.join("a", false).unwrap();
        let since = Instant::now() - 2 * SILENCE;
        lookups
            .queue
            .lock()
            .under_way
            .insert("a".to_owned(), (since, begun));
        let error = lookups.join("a", false).unwrap_err();
        assert!(error.contains("no reply"), "{error}");
    }
}

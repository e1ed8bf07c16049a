//! Tenants at work: who calls, what that caller may do, and what its tenant uses at the moment.
//!
//! [`authorize`] is the one layer that lets calls through, by the route they matched. Behind it
//! every call has a [`caller::Caller`]; [`admission`] counts what its tenant uses, and an
//! [`account::Account`] is what one request leaves behind. Rights and keys
//! themselves, and how they are declared, are [`crate::tenant`]'s.

pub mod account;
pub mod admission;
pub mod authorize;
pub mod book;
pub mod caller;
pub mod headers;
pub mod live;
pub mod manage;
pub mod routes;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use self::book::Book;
use self::caller::{Caller, Tenant};
use self::live::Live;
use crate::tenant::declarations::{ChangeError, Declarations};
use crate::tenant::directory::{Directory, DirectoryError};
use crate::tenant::key::KeyHash;
use crate::tenant::keys_file::KeysFile;
use crate::tenant::policy::{DEFAULT_TENANT, Policy};

/// Who may read `/metrics` where keys are asked for. Without keys, everybody.
#[derive(Debug, Clone, Default)]
pub enum MetricsAccess {
    /// Holders of an administrator's key.
    #[default]
    Admins,
    /// Those, and whoever has the key of this digest, which opens nothing else.
    Key(KeyHash),
    /// Everybody.
    Public,
}

/// After this long nothing is left of a rate that was used up.
const RATES_LAST: Duration = Duration::from_secs(60);

/// Everything that is known of tenants. A reload replaces it as a whole; calls under way keep what
/// they began with.
#[derive(Debug)]
pub struct Tenancy {
    present: ArcSwap<Present>,
    numbers: Numbers,
    metrics: MetricsAccess,
    /// Where `present` comes from; `None` where nothing is declared. Held while it is replaced.
    book: Mutex<Option<Book>>,
    /// Whether the last change could not be written down, and nothing could since.
    failing: AtomicBool,
}

#[derive(Debug)]
struct Present {
    /// `None` where no key is asked for.
    directory: Option<Arc<Directory>>,
    tenants: HashMap<String, Arc<Tenant>>,
    /// What tenants use that are no longer declared, and since when they are not: one that comes back
    /// has used what it used.
    left: HashMap<String, (Arc<Live>, Instant)>,
}

/// Numbers of tenants and cache groups. None is given twice: what is made anew under an old name is
/// somebody else, and finds nothing of what the former one left behind.
#[derive(Debug)]
struct Numbers(AtomicU32);

impl Numbers {
    fn next(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

impl Tenancy {
    /// No key is asked for: everybody is one tenant that may do everything.
    #[must_use]
    pub fn open() -> Arc<Self> {
        let policy = Arc::new(Policy::unlimited(DEFAULT_TENANT));
        let live = Arc::new(Live::new(0));
        let tenant = Arc::new(Tenant { policy, live, group: None, alone: true });
        let tenants = [(DEFAULT_TENANT.to_owned(), tenant)].into();
        let present = Present { directory: None, tenants, left: HashMap::new() };
        Arc::new(Self {
            present: ArcSwap::from_pointee(present),
            numbers: Numbers(AtomicU32::new(1)),
            metrics: MetricsAccess::Public,
            book: Mutex::default(),
            failing: AtomicBool::new(false),
        })
    }

    /// Every call needs a key of `directory`.
    #[must_use]
    pub fn with_keys(directory: Directory, metrics: MetricsAccess) -> Arc<Self> {
        Self::new(directory, metrics, None)
    }

    /// Every call needs a key that is declared in `book`.
    ///
    /// # Errors
    /// Where the declarations do not hold together.
    pub fn with_book(book: Book, metrics: MetricsAccess) -> Result<Arc<Self>, DirectoryError> {
        Ok(Self::new(book.declarations().directory()?, metrics, Some(book)))
    }

    fn new(directory: Directory, metrics: MetricsAccess, book: Option<Book>) -> Arc<Self> {
        let none = Present { directory: None, tenants: HashMap::new(), left: HashMap::new() };
        let numbers = Numbers(AtomicU32::new(1));
        let present = none.followed_by(Arc::new(directory), &numbers, Instant::now());
        let (present, book) = (ArcSwap::from_pointee(present), Mutex::new(book));
        Arc::new(Self { present, numbers, metrics, book, failing: AtomicBool::new(false) })
    }

    /// The keys file has changed; returns how many tenants and keys there are now.
    ///
    /// # Errors
    /// Where it does not hold together; nothing is changed then.
    pub fn reload(&self, file: KeysFile) -> Result<(usize, usize), DirectoryError> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(book) = book.as_mut() else { return Ok((0, 0)) };
        let directory = book.reload(file)?;
        let counts = (directory.tenants().count(), directory.keys().count());
        self.replace(directory);
        Ok(counts)
    }

    /// An administrator's change; `None` where nothing is declared. It waits for the disk.
    ///
    /// # Errors
    /// Where it is refused; nothing is changed then.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&mut Declarations) -> Result<T, ChangeError>,
    ) -> Option<Result<T, ChangeError>> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = book.as_mut()?.change(change);
        match &changed {
            Ok(_) => self.failing.store(false, Ordering::Release),
            Err(ChangeError::NotWritten) => self.failing.store(true, Ordering::Release),
            Err(_) => {}
        }
        Some(changed.map(|(result, directory)| {
            self.replace(directory);
            result
        }))
    }

    /// Whether the changes of administrators can be written down, as far as is known.
    #[must_use]
    pub fn stores_changes(&self) -> bool {
        !self.failing.load(Ordering::Acquire)
    }

    /// Where a change could not be written down: writes down what is in force. It waits for the disk.
    pub fn write_again(&self) {
        if self.stores_changes() {
            return;
        }
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.as_ref().is_some_and(|book| book.write().is_ok()) {
            tracing::info!("changes of tenants can be written down again");
            self.failing.store(false, Ordering::Release);
        }
    }

    /// Looks at what is declared; `None` where nothing is.
    pub fn declared<T>(&self, look: impl FnOnce(&Declarations) -> T) -> Option<T> {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.as_ref().map(|book| look(book.declarations()))
    }

    /// From now on calls need a key of `directory`. What its tenants use at the moment still counts.
    fn replace(&self, directory: Directory) {
        let (directory, now) = (Arc::new(directory), Instant::now());
        self.present.rcu(|present| present.followed_by(Arc::clone(&directory), &self.numbers, now));
    }

    /// Whether no key is asked for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.present.load().directory.is_none()
    }

    /// Who may read the metrics.
    #[must_use]
    pub fn metrics_access(&self) -> &MetricsAccess {
        &self.metrics
    }

    /// Whoever calls with this key, or with none; `None` where that opens nothing.
    #[must_use]
    pub fn caller(&self, secret: Option<&str>) -> Option<Caller> {
        let present = self.present.load();
        let Some(directory) = &present.directory else {
            let tenant = present.tenants.get(DEFAULT_TENANT)?;
            return Some(Caller::anonymous(Arc::clone(tenant)));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |at| at.as_secs());
        let key = directory.find(secret?, now)?;
        let tenant = present.tenants.get(&key.tenant)?;
        Some(Caller::with_key(Arc::clone(tenant), Arc::clone(key)))
    }
}

impl Present {
    fn followed_by(&self, directory: Arc<Directory>, numbers: &Numbers, now: Instant) -> Self {
        let left = self.left(&directory, now);
        let groups = self.groups(&directory, numbers);
        let alone = directory.tenants().count() == 1;
        let mut tenants = HashMap::new();
        for policy in directory.tenants() {
            let known = self.tenants.get(&policy.name).map(|tenant| Arc::clone(&tenant.live));
            let live = known.unwrap_or_else(|| {
                let (number, left) = (numbers.next(), self.left.get(&policy.name));
                // One that comes back may be another: it owes what its name used, and finds nothing
                // that was cached.
                Arc::new(
                    left.map_or_else(|| Live::new(number), |(live, _)| live.renumbered(number)),
                )
            });
            live.set_rates(&policy.limits);
            let group = policy.cache_group.as_ref().map(|name| groups[name]);
            let tenant = Tenant { policy: Arc::clone(policy), live, group, alone };
            tenants.insert(policy.name.clone(), Arc::new(tenant));
        }
        Self { directory: Some(directory), tenants, left }
    }

    /// What is used by tenants that `directory` does not declare, as long as it counts.
    fn left(&self, directory: &Directory, now: Instant) -> HashMap<String, (Arc<Live>, Instant)> {
        let counts = |(live, since): &(Arc<Live>, Instant)| {
            !live.is_idle() || now.saturating_duration_since(*since) < RATES_LAST
        };
        let before = self.left.iter().filter(|(_, left)| counts(left));
        let before = before.map(|(name, left)| (name.clone(), left.clone()));
        let present = self.tenants.iter();
        let present = present.map(|(name, tenant)| (name.clone(), (Arc::clone(&tenant.live), now)));
        let all = before.chain(present);
        all.filter(|(name, _)| directory.tenant(name).is_none()).collect()
    }

    /// The numbers of the cache groups of `directory`. A group is the same as before as long as one of
    /// its tenants was in it then.
    fn groups(&self, directory: &Directory, numbers: &Numbers) -> HashMap<String, u32> {
        let mut groups = HashMap::new();
        for policy in directory.tenants() {
            let Some(name) = &policy.cache_group else { continue };
            let before = self.tenants.get(&policy.name);
            let before = before.filter(|tenant| tenant.policy.cache_group.as_ref() == Some(name));
            if let Some(number) = before.and_then(|tenant| tenant.group) {
                groups.insert(name.clone(), number);
            }
        }
        for policy in directory.tenants() {
            if let Some(name) = &policy.cache_group {
                groups.entry(name.clone()).or_insert_with(|| numbers.next());
            }
        }
        groups
    }
}

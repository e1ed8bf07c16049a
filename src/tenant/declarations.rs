//! Tenants and keys from two sources: the file that people write, and what administrators declared
//! while the server ran. What is in the file stands; the other never changes it.

use super::directory::{Directory, DirectoryError};
use super::keys_file::{KeyEntry, KeysFile, TenantEntry};

/// Both sources.
#[derive(Debug, Clone, Default)]
pub struct Declarations {
    /// The file's.
    pub file: KeysFile,
    /// The administrators'.
    pub own: KeysFile,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// It is not the administrators' to change.
    #[error("{0:?} is declared in the keys file, and is changed there")]
    InFile(String),
    /// There is no such tenant or key.
    #[error("there is no {0:?}")]
    Unknown(String),
    /// It would not hold together.
    #[error(transparent)]
    Wrong(#[from] DirectoryError),
    /// It could not be made to last.
    #[error("the change could not be written down")]
    NotWritten,
}

impl Declarations {
    /// What both mean together.
    ///
    /// # Errors
    /// The first declaration that does not hold.
    pub fn directory(&self) -> Result<Directory, DirectoryError> {
        let mut all = self.file.clone();
        for (name, entry) in &self.own.tenants {
            all.tenants.entry(name.clone()).or_insert_with(|| entry.clone());
        }
        // A tenant may have left the file: its keys wait until it is there again.
        let keys = self.own.keys.iter().filter(|(_, key)| all.tenants.contains_key(&key.tenant));
        for (id, entry) in keys {
            all.keys.entry(id.clone()).or_insert_with(|| entry.clone());
        }
        Directory::new(&all)
    }

    /// Declares a tenant, or declares it anew; true where it is new.
    ///
    /// # Errors
    /// Where the file declares it.
    pub fn put_tenant(&mut self, name: &str, entry: TenantEntry) -> Result<bool, ChangeError> {
        if self.file.tenants.contains_key(name) {
            return Err(ChangeError::InFile(name.to_owned()));
        }
        Ok(self.own.tenants.insert(name.to_owned(), entry).is_none())
    }

    /// Takes a tenant back, and its keys.
    ///
    /// # Errors
    /// Where the file declares it, or nobody.
    pub fn remove_tenant(&mut self, name: &str) -> Result<(), ChangeError> {
        if self.file.tenants.contains_key(name) {
            return Err(ChangeError::InFile(name.to_owned()));
        }
        if self.own.tenants.remove(name).is_none() {
            return Err(ChangeError::Unknown(name.to_owned()));
        }
        self.own.keys.retain(|_, key| key.tenant != name);
        Ok(())
    }

    /// Declares a new key.
    ///
    /// # Errors
    /// Where its tenant is unknown.
    pub fn add_key(&mut self, id: &str, entry: KeyEntry) -> Result<(), ChangeError> {
        let known = |file: &KeysFile| file.tenants.contains_key(&entry.tenant);
        if !known(&self.file) && !known(&self.own) {
            return Err(ChangeError::Unknown(entry.tenant));
        }
        self.own.keys.insert(id.to_owned(), entry);
        Ok(())
    }

    /// Takes a key back.
    ///
    /// # Errors
    /// Where the file declares it, or nobody.
    pub fn remove_key(&mut self, id: &str) -> Result<(), ChangeError> {
        if self.file.keys.contains_key(id) {
            return Err(ChangeError::InFile(id.to_owned()));
        }
        self.own.keys.remove(id).map(|_| ()).ok_or_else(|| ChangeError::Unknown(id.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::key::KeyHash;
    use crate::tenant::keys_file::Role;

    fn key(tenant: &str, secret: &str) -> KeyEntry {
        KeyEntry {
            tenant: tenant.to_owned(),
            sha256: KeyHash::of(secret).to_string(),
            roles: vec![Role::User],
            expires: None,
        }
    }

    #[test]
    fn what_the_file_says_stands() {
        let file = KeysFile::parse("[tenants.acme]\nbase = true").unwrap();
        let mut both = Declarations { file, own: KeysFile::default() };
        let acme = || Err(ChangeError::InFile("acme".into()));
        assert_eq!(both.put_tenant("acme", TenantEntry::default()), acme());
        assert_eq!(both.remove_tenant("acme").map(|()| true), acme());
        assert_eq!(both.put_tenant("globex", TenantEntry::default()), Ok(true));
        assert_eq!(both.put_tenant("globex", TenantEntry::default()), Ok(false));
        both.add_key("a", key("acme", "sk-a")).unwrap();
        both.add_key("g", key("globex", "sk-g")).unwrap();
        let nobody = both.add_key("n", key("nobody", "sk-n"));
        assert_eq!(nobody, Err(ChangeError::Unknown("nobody".into())));
        let directory = both.directory().unwrap();
        assert_eq!(directory.find("sk-a", 0).unwrap().tenant, "acme");
        assert_eq!(directory.find("sk-g", 0).unwrap().tenant, "globex");
        // A tenant that left the file takes nobody down with it.
        both.file = KeysFile::default();
        let directory = both.directory().unwrap();
        assert!(directory.find("sk-a", 0).is_none() && directory.find("sk-g", 0).is_some());
        both.remove_tenant("globex").unwrap();
        assert!(both.directory().unwrap().find("sk-g", 0).is_none());
        assert_eq!(both.remove_key("g"), Err(ChangeError::Unknown("g".into())));
        both.remove_key("a").unwrap();
    }
}

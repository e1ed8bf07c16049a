//! One safetensors file, already in memory, parsed as hostile input into float32 tensors.
//!
//! It knows the container format and nothing of what the tensors mean. The file is never mapped:
//! a mapped file that shrinks under a running server kills it.

use safetensors::{Dtype, SafeTensors};

use super::error::{AdapterError, quoted};
use super::outline::Outline;

/// Length of the header's own length field.
pub(super) const LENGTH_BYTES: usize = 8;

/// What stands in a Git repository for a large file begins with this, where the file itself was not
/// fetched.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// What a file may ask of the parser.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    /// Longest header, in bytes.
    pub max_header_bytes: u64,
    /// Most tensors.
    pub max_tensors: usize,
}

impl Caps {
    /// Room for eight tensors a module, and for names of a generous length.
    pub fn for_modules(count: usize) -> Self {
        let max_tensors = count.saturating_mul(8);
        let names = (max_tensors as u64).saturating_mul(256);
        Self { max_header_bytes: names.max(1 << 20), max_tensors }
    }
}

/// A tensor with its name in the file; every value is finite.
#[derive(Debug, Clone)]
pub(super) struct NamedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// All tensors of a file, in the order of their names.
pub(super) fn parse(file: &[u8], caps: Caps) -> Result<Vec<NamedTensor>, AdapterError> {
    check_header(file, file.len() as u64, caps)?;
    let malformed = |error: safetensors::SafeTensorError| AdapterError::Header {
        problem: quoted(&error.to_string()),
    };
    let parsed = SafeTensors::deserialize(file).map_err(malformed)?;
    let mut names = parsed.names();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| {
            let view = parsed.tensor(name).map_err(malformed)?;
            let values = decode(name, view.dtype(), view.data())?;
            Ok(NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values })
        })
        .collect()
}

/// The names in the header of a file that begins with these bytes; `None` where its header does not end
/// in them, or is none.
pub(super) fn names(beginning: &[u8]) -> Option<Vec<String>> {
    let (length, rest) = beginning.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let outline = Outline::parse(rest.get(..length)?).ok()?;
    Some(outline.0.into_iter().map(|(name, _)| name).collect())
}

/// Names and shapes in the header of a file that begins with these bytes; `None` where its header does
/// not end in them, is none, or asks for too much.
pub(super) fn outline(beginning: &[u8], caps: Caps) -> Option<Vec<(String, Vec<usize>)>> {
    let (length, rest) = beginning.split_first_chunk::<LENGTH_BYTES>()?;
    let length = u64::from_le_bytes(*length);
    let length = usize::try_from(length).ok().filter(|_| length <= caps.max_header_bytes)?;
    let Outline(extents, shapes) = Outline::parse(rest.get(..length)?).ok()?;
    let named = extents.into_iter().zip(shapes).map(|((name, _), shape)| (name, shape));
    (named.len() <= caps.max_tensors).then(|| named.collect())
}

/// Reads the header alone, which `beginning` ends with or goes on behind, of a file of so many bytes:
/// its length, the number of tensors, names given twice, and ends beyond the file.
pub(super) fn check_header(
    beginning: &[u8],
    file_bytes: u64,
    caps: Caps,
) -> Result<(), AdapterError> {
    let truncated =
        AdapterError::Truncated { bytes: usize::try_from(file_bytes).unwrap_or(usize::MAX) };
    let Some((length, rest)) = beginning.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(truncated);
    };
    if beginning.starts_with(LFS_POINTER) {
        return Err(AdapterError::LfsPointer);
    }
    let bytes = u64::from_le_bytes(*length);
    if bytes > caps.max_header_bytes {
        return Err(AdapterError::HeaderTooLarge { bytes, limit: caps.max_header_bytes });
    }
    let split = usize::try_from(bytes).ok().and_then(|length| rest.split_at_checked(length));
    let Some((header, _)) = split else {
        return Err(truncated);
    };
    let outline = Outline::parse(header)
        .map_err(|error| AdapterError::Header { problem: quoted(&error.to_string()) })?;
    let extents = &outline.0;
    if extents.len() > caps.max_tensors {
        let (count, limit) = (extents.len(), caps.max_tensors);
        return Err(AdapterError::TooManyTensors { count, limit });
    }
    let available = file_bytes.saturating_sub(bytes.saturating_add(LENGTH_BYTES as u64));
    if let Some((name, end)) = extents.iter().find(|(_, end)| *end > available) {
        return Err(AdapterError::OutOfBounds { tensor: quoted(name), end: *end, available });
    }
    match outline.repeated() {
        Some(name) => Err(AdapterError::RepeatedTensor { tensor: quoted(&name) }),
        None => Ok(()),
    }
}

/// Little-endian values of one tensor as float32, which holds the other two types exactly.
fn decode(name: &str, dtype: Dtype, bytes: &[u8]) -> Result<Vec<f32>, AdapterError> {
    let halves = || bytes.as_chunks::<2>().0.iter().copied();
    let values: Vec<f32> = match dtype {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect(),
        Dtype::F16 => halves().map(|half| half::f16::from_le_bytes(half).to_f32()).collect(),
        Dtype::BF16 => halves().map(|half| half::bf16::from_le_bytes(half).to_f32()).collect(),
        other => {
            let dtype = format!("{other:?}");
            return Err(AdapterError::UnsupportedDtype { tensor: quoted(name), dtype });
        }
    };
    match values.iter().position(|value| !value.is_finite()) {
        Some(element) => {
            let value = values[element];
            Err(AdapterError::NotFinite { tensor: quoted(name), value, element })
        }
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPS: Caps = Caps { max_header_bytes: 4096, max_tensors: 4 };

    /// A file of this header and so many zero bytes of data.
    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data, 0);
        file
    }

    fn refused(file: &[u8]) -> AdapterError {
        parse(file, CAPS).expect_err("must be refused")
    }

    #[test]
    fn all_three_dtypes_read_exactly() {
        let header = r#"{"__metadata__":{"format":"pt"},
            "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "b":{"dtype":"F16","shape":[1,1],"data_offsets":[8,10]},
            "c":{"dtype":"BF16","shape":[1],"data_offsets":[10,12]}}"#;
        let mut bytes = file(header, 0);
        bytes.extend((-0.1_f32).to_le_bytes());
        bytes.extend(f32::MIN_POSITIVE.to_le_bytes());
        bytes.extend(half::f16::from_f32(0.333).to_le_bytes());
        bytes.extend(half::bf16::from_f32(3e38).to_le_bytes());
        let tensors = parse(&bytes, CAPS).unwrap();
        assert_eq!(tensors[0].values, [-0.1, f32::MIN_POSITIVE]);
        assert_eq!(tensors[1].values, [half::f16::from_f32(0.333).to_f32()]);
        assert_eq!(tensors[1].shape, [1, 1]);
        assert_eq!(tensors[2].values, [half::bf16::from_f32(3e38).to_f32()]);
    }

    #[test]
    fn a_pointer_of_git_lfs_is_told_from_a_broken_file() {
        let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
        assert!(matches!(refused(pointer), AdapterError::LfsPointer));
        assert!(matches!(refused(b"version of 1"), AdapterError::HeaderTooLarge { .. }));
    }

    #[test]
    fn a_header_beyond_the_cap_is_refused_unread() {
        let error = refused(&u64::MAX.to_le_bytes());
        assert!(matches!(error, AdapterError::HeaderTooLarge { bytes: u64::MAX, limit: 4096 }));
    }

    #[test]
    fn a_file_that_ends_in_its_header_is_truncated() {
        assert!(matches!(refused(b"{}"), AdapterError::Truncated { bytes: 2 }));
        let whole = file("{}", 0);
        assert!(matches!(refused(&whole[..9]), AdapterError::Truncated { bytes: 9 }));
    }

    #[test]
    fn a_header_that_is_no_object_of_tensors_is_malformed() {
        for header in ["", "[]", "{", r#"{"a":1}"#, r#"{"a":{"data_offsets":[0,-1]}}"#, "\u{7f}"] {
            assert!(matches!(refused(&file(header, 0)), AdapterError::Header { .. }), "{header}");
        }
        let deep = format!("{{\"a\":{}", "[".repeat(4000));
        assert!(matches!(refused(&file(&deep, 0)), AdapterError::Header { .. }));
    }

    #[test]
    fn overlaps_gaps_and_wrong_sizes_are_malformed() {
        let entry = |name: &str, from: usize, to: usize| {
            format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}"#)
        };
        let two = |from, to| format!("{{{},{}}}", entry("a", 0, 8), entry("b", from, to));
        for (from, to) in [(4, 12), (0, 8), (12, 20), (8, 12), (16, 8)] {
            let error = refused(&file(&two(from, to), 24));
            assert!(matches!(error, AdapterError::Header { .. }), "{from} {to}: {error}");
        }
        assert!(matches!(refused(&file(&two(8, 16), 17)), AdapterError::Header { .. }));
    }

    #[test]
    fn a_shape_that_overflows_is_malformed() {
        let header = r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296,2],
            "data_offsets":[0,8]}}"#;
        assert!(matches!(refused(&file(header, 8)), AdapterError::Header { .. }));
    }

    #[test]
    fn an_end_beyond_the_file_is_out_of_bounds() {
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let error = refused(&file(header, 7));
        assert!(matches!(error, AdapterError::OutOfBounds { end: 8, available: 7, .. }));
    }

    #[test]
    fn one_name_twice_is_refused() {
        let entry = r#""a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let error = refused(&file(&format!("{{{entry},{entry}}}"), 4));
        assert!(matches!(error, AdapterError::RepeatedTensor { tensor } if tensor == "\"a\""));
    }

    #[test]
    fn too_many_tensors_are_refused() {
        let entry = |i| format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
        let header = format!("{{{}}}", (0..5).map(entry).collect::<Vec<_>>().join(","));
        let error = refused(&file(&header, 0));
        assert!(matches!(error, AdapterError::TooManyTensors { count: 5, limit: 4 }));
    }

    #[test]
    fn other_dtypes_are_refused() {
        for (dtype, bytes) in [("F64", 8), ("I32", 4), ("U8", 1), ("F8_E4M3", 1)] {
            let header =
                format!(r#"{{"a":{{"dtype":"{dtype}","shape":[1],"data_offsets":[0,{bytes}]}}}}"#);
            let error = refused(&file(&header, bytes));
            assert!(matches!(error, AdapterError::UnsupportedDtype { .. }), "{dtype}: {error}");
        }
    }

    #[test]
    fn nan_and_infinity_are_refused_in_every_dtype() {
        let nan = [f32::NAN.to_le_bytes().to_vec(), vec![0, 0x7e], vec![0xc0, 0x7f]];
        let infinity = [f32::NEG_INFINITY.to_le_bytes().to_vec(), vec![0, 0xfc], vec![0x80, 0xff]];
        for values in [nan, infinity] {
            for (dtype, value) in ["F32", "F16", "BF16"].iter().zip(values) {
                let size = value.len();
                let header = format!(
                    r#"{{"a":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{}]}}}}"#,
                    2 * size
                );
                let mut bytes = file(&header, size);
                bytes.extend(value);
                let error = refused(&bytes);
                assert!(matches!(error, AdapterError::NotFinite { element: 1, .. }), "{error}");
            }
        }
    }
}

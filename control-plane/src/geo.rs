//! Where an address is: country, region, coordinates, network and provider, from files in MaxMind's format.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use maxminddb::{MaxMindDbError, PathElement, Reader, path};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most characters of a provider's name that are kept.
const MAX_ISP: usize = 64;

/// Where viewers and nodes are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Geo {
    /// Files in MaxMind's format (`.mmdb`), such as GeoLite2-City and GeoLite2-ASN; each tells what it has, the first one that
    /// tells something counts. None: regions and providers are unknown, and nearness is by address prefix alone.
    pub databases: Vec<PathBuf>,
}

/// What is known of an address; what is not is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Place {
    /// ISO 3166-1 country code, as in `DE`.
    pub country: Arc<str>,
    /// ISO 3166-2 code of the first-level subdivision, as in `DE-BE`; the country's where only that is known.
    pub region: Arc<str>,
    /// Autonomous system; 0 is unknown.
    pub asn: u32,
    /// Name of the provider; where only the system is known, `AS64496`.
    pub isp: Arc<str>,
    /// Degrees north and east.
    pub point: Option<(f64, f64)>,
}

/// The files, read at the start.
#[derive(Default)]
pub struct Places {
    readers: Vec<Reader<Vec<u8>>>,
    nowhere: Place,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("geo.databases: {}: {source}; name a file in MaxMind's format that this user can read", path.display())]
pub struct GeoError {
    /// The file.
    path: PathBuf,
    /// Why.
    source: MaxMindDbError,
}

impl Places {
    /// Reads the files.
    pub fn open(config: &Geo) -> Result<Self, GeoError> {
        let open =
            |path: &PathBuf| Reader::open_readfile(path).map_err(|source| GeoError { path: path.clone(), source });
        Ok(Self { readers: config.databases.iter().map(open).collect::<Result<_, _>>()?, nowhere: Place::default() })
    }

    /// Where an address is, as far as the files know. Microseconds: ask once for each viewer, not for each request.
    pub fn place(&self, address: IpAddr) -> Place {
        let mut place = self.nowhere.clone();
        let mut point = (None, None);
        for found in self.readers.iter().filter_map(|reader| reader.lookup(address).ok()) {
            // A record without the field, or with one of another type, tells nothing.
            let text = |path: &[PathElement<'_>]| found.decode_path::<&str>(path).ok().flatten();
            if place.country.is_empty()
                && let Some(country) = text(&path!["country", "iso_code"])
            {
                place.country = country.into();
                place.region = match text(&path!["subdivisions", 0, "iso_code"]) {
                    Some(region) => format!("{country}-{region}").into(),
                    None => Arc::clone(&place.country),
                };
                let degrees = |path: &[PathElement<'_>]| found.decode_path::<f64>(path).ok().flatten();
                point = (degrees(&path!["location", "latitude"]), degrees(&path!["location", "longitude"]));
            }
            if place.asn == 0 {
                let asn = found.decode_path::<u32>(&path!["autonomous_system_number"]);
                place.asn = asn.ok().flatten().unwrap_or(0);
            }
            if place.isp.is_empty()
                && let Some(isp) = text(&path!["isp"]).or_else(|| text(&path!["autonomous_system_organization"]))
            {
                place.isp = isp.chars().take(MAX_ISP).collect::<String>().into();
            }
        }
        if place.isp.is_empty() && place.asn != 0 {
            place.isp = format!("AS{}", place.asn).into();
        }
        place.point = point.0.zip(point.1);
        place
    }
}

/// Kilometres between two points on a sphere of the Earth's size.
pub fn distance_km((north, east): (f64, f64), (to_north, to_east): (f64, f64)) -> f64 {
    const RADIUS_KM: f64 = 6371.0;
    let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let haversine =
        half(to_north - north) + north.to_radians().cos() * to_north.to_radians().cos() * half(to_east - east);
    2.0 * RADIUS_KM * haversine.clamp(0.0, 1.0).sqrt().asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_files_nothing_is_known_and_nothing_fails() {
        let places = Places::open(&Geo::default()).unwrap();
        assert_eq!(places.place("192.0.2.1".parse().unwrap()), Place::default());
    }

    #[test]
    fn a_file_that_is_none_is_named_with_the_remedy() {
        let geo = Geo { databases: vec!["/nonexistent.mmdb".into()] };
        let error = Places::open(&geo).err().unwrap().to_string();
        assert!(error.contains("geo.databases") && error.contains("/nonexistent.mmdb"), "{error}");
    }

    #[test]
    fn distances_are_those_on_the_globe() {
        let (berlin, sydney) = ((52.52, 13.405), (-33.8688, 151.2093));
        assert!((distance_km(berlin, sydney) - 16_090.0).abs() < 30.0);
        assert_eq!(distance_km(berlin, berlin), 0.0);
        assert!((distance_km((0.0, 179.5), (0.0, -179.5)) - 111.2).abs() < 1.0);
    }
}

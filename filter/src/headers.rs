//! All headers of one direction, kept as the host wrote them.

/// Where a header stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    name: usize,
    value: usize,
    /// After the value, without the zero byte.
    end: usize,
}

/// All headers of one direction, in order. Names are lower case.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    text: Vec<u8>,
    places: Vec<Place>,
}

impl Headers {
    /// Reads a map as the host writes it: how many, all sizes, and then names and values, each with a zero byte after it.
    /// `None` where it is none.
    #[must_use]
    pub fn read(text: Vec<u8>) -> Option<Self> {
        let Some((count, rest)) = text.split_first_chunk::<4>() else {
            return text.is_empty().then(Self::default);
        };
        let number = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
        let count = number(count)?;
        let (sizes, _) = rest.split_at_checked(count.checked_mul(8)?)?;
        let mut places = Vec::with_capacity(count);
        let mut at = sizes.len().checked_add(4)?;
        for [name, value] in sizes.as_chunks::<4>().0.as_chunks::<2>().0 {
            let start = at.checked_add(number(name)?)?.checked_add(1)?;
            let end = start.checked_add(number(value)?)?;
            places.push(Place { name: at, value: start, end });
            at = end.checked_add(1)?;
        }
        // The last one ends with the text or before it, and so does every other one.
        (at <= text.len()).then_some(Self { text, places })
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places.iter().map(|place| (self.name(place), self.value(place)))
    }

    /// The values of a name, in order. A request is looked through a dozen times: names of another length, which nearly all
    /// are, are told by their places alone.
    pub(crate) fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        let after = name.len().wrapping_add(1);
        let named = move |place: &&Place| {
            place.value.wrapping_sub(place.name) == after && self.name(place) == name.as_bytes()
        };
        self.places.iter().filter(named).map(|place| self.value(place))
    }

    fn name(&self, place: &Place) -> &[u8] {
        self.text.get(place.name..place.value.saturating_sub(1)).unwrap_or_default()
    }

    fn value(&self, place: &Place) -> &[u8] {
        self.text.get(place.value..place.end).unwrap_or_default()
    }
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a [u8])>>(pairs: I) -> Self {
        let mut headers = Self::default();
        for (name, value) in pairs {
            let at = headers.text.len();
            headers.text.extend_from_slice(name.as_bytes());
            headers.text.push(0);
            let start = headers.text.len();
            headers.text.extend_from_slice(value);
            headers.text.push(0);
            headers.places.push(Place { name: at, value: start, end: start.saturating_add(value.len()) });
        }
        headers
    }
}

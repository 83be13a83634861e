"""JSON with the keys of every object in order: equal values give equal bytes, to be hashed, compared or stored.

Owns the one encoder for that.
"""

from __future__ import annotations

import msgspec

encode_sorted = msgspec.json.Encoder(order="sorted").encode

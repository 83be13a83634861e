"""JSON with sorted keys.

Equal values give equal bytes, which can be hashed and compared.
"""

from __future__ import annotations

import msgspec

encode_sorted = msgspec.json.Encoder(order="sorted").encode

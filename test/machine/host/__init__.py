# SPDX-License-Identifier: Apache-2.0
"""The host side of the emulated machine."""

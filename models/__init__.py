# SPDX-License-Identifier: Apache-2.0
"""Trained models that come with Hiddenfold, and sample images for them."""

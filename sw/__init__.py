# SPDX-License-Identifier: Apache-2.0
"""Software: model and program files, search, driver, command line."""

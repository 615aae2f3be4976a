"""The proof that a quota is never overspent and money adds up: `make quotas` plays all of it, the suite a part.

Every part has the same authorities under test (`sites`), and says how often it looked.
"""

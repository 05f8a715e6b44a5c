"""The API around a bundle: requests, answers, hot reload, metrics, pages.

Begin with `app.py` (what is put together) and `service.py` (how rows become logged answers).
"""

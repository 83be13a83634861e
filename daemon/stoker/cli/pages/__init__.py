"""The web page of `stoker web`: a client of the socket that shows what the daemon answers in a browser.

Owns everything between HTTP and the protocol: who may look (`access`), the pages (`page`, and one module for each
subject), what changes while they are open (`live`), and what may be done from them (`actions`).
"""

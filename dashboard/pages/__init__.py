"""One module a page: NAME, TITLE, MENU, layout(lake, params), register(app, lake)."""

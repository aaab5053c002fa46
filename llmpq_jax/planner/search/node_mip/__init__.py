"""Branch-and-bound nodes solved exactly, as mixed-integer programs by HiGHS."""

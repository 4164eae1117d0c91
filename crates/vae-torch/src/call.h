// What every call into libtorch here does with exceptions.
#pragma once

#include <cstring>
#include <exception>

#include <c10/util/Exception.h>

// nullptr, or what libtorch says against the call (for the caller to free).
template <typename F>
char *guarded(F call) {
    try {
        call();
        return nullptr;
    } catch (const c10::Error &error) {
        return strdup(error.what_without_backtrace());
    } catch (const std::exception &error) {
        return strdup(error.what());
    } catch (...) {
        return strdup("an exception that is no std::exception");
    }
}

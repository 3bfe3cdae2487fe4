// Package store is where images live: registries, OCI layout directories, OCI archives and docker archives,
// behind one interface for reading ([Source]) and one for writing ([Target]).
//
// References are parsed by [Parse]; [OpenSource] and [OpenTarget] connect. What a Source hands out whole is
// verified by size and digest; random access is not. A Target makes nothing visible before its Tag and Commit.
package store

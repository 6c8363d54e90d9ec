/** What is wrong with a file, for the person who chose it. */
export class FileError extends Error {}
